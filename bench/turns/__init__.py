"""Turn-taking: training of the policy's weights and their evaluation. The corpora are not part of the project."""
