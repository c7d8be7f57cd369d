"""What Sphinx lacks here: equations as MathML, which browsers draw by themselves, and examples that start fresh."""

import sklearn
from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.util.math import get_node_equation_number


def reset_scikit_learn(gallery_conf, fname):
    """Undo what the last example set for the whole process, such as metadata routing."""
    sklearn.set_config(**_CONFIG)


_CONFIG = sklearn.get_config()


def visit_inline(translator, node):
    """Write an equation within the text."""
    translator.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(translator, node):
    """Write an equation of its own."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
