"""Attacks on files and processes: kills at every file operation, several writers at once, mutated files. Tests run samples of these.

python -m benchmarks.attacks.kills           every operation of every scenario, one after another
python -m benchmarks.attacks.writers         60 000 loads beside four writers
python -m benchmarks.attacks.mutants         20 000 mutated files
python -m benchmarks.attacks.pages           1000 pages with mutated data, in a browser
"""
