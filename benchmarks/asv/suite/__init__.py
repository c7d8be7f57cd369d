"""Speed from commit to commit, by asv: see CONTRIBUTING.md."""
