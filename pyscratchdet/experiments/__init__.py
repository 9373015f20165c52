"""The paper, number by number: what it prints as data, runs that measure the same, and their report.

    from pyscratchdet.experiments import paper

    for cell in paper.cells("table2"):
        print(cell.name, cell.recipe, cell.printed)

The numbers lie in `prototxt/printed.toml`, where the recipes read them, too.
"""
