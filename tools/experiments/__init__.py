"""Experiments as files: a table of methods and seeds that is run, resumed and reported.

examples/experiments/NAME.yaml    what is compared                          (spec)
$XDG_STATE_HOME/launcher/experiments/NAME/
    lock                          held as long as a process works on it     (places)
    data/                         the raw data set, packed once             (dataset)
    cells/METHOD-SEED-STAGE-SHA/  run.yaml, log and run/, the trainer's own (cells)
docs/results/NAME.json            a row for each finished run               (results)
docs/results/NAME.md, NAME.svg    what they come to                         (report, picture)
"""
