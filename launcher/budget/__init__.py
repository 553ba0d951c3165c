"""GPU time: who used how much, in whole milliseconds. Pure, but for the one module that stores.

records.py     what is kept of a pod, and of corrections and refunds; how two of them become one
ledger.py      all records of a cluster: sums by any key, and counters that never fall
periods.py     spans of a budget, cut at UTC boundaries or at its own anchor
pods.py        from a pod, as the API server tells of it, to its interval
storage.py     the ledger in a folder or bucket: segments created once, a snapshot replaced by tag
accountant.py  the one writer: sees pods, stores their intervals, lets the pods go
budgets.py     what a budget allows: to start, to grow, to go on
objects.py     budgets as the API server keeps them: read from the object, written to its status

The unit is the GPU-millisecond, an integer; days are for people, and made where they are printed.
"""
