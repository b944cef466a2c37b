"""Scoring columns. A column is a module with two pure functions:

`score_rows(task, predictions, golds, primary_only=False) -> statistics` of shape [items, k], and
`aggregate(task, statistics, weights) -> {metric: values}`, in percent, where weights has shape
[..., items] and each value the shape [...]. An aggregate depends on the statistics through their
weighted sums alone, so a bootstrap is a reweighting and needs no text.
"""
