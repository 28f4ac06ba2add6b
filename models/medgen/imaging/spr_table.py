"""The knots of stopping power over CT numbers that count where the user gives no table. Standard library only."""

HU_COLUMN, SPR_COLUMN = "HU", "SPR"
SPR_KNOTS = (  # HU, SPR; plausible for head and neck, of no scanner in particular: a site measures its own
    (-1024.0, -100.0, 0.0, 60.0, 300.0, 1000.0, 2000.0, 3000.0),
    (0.001, 0.93, 1.0, 1.05, 1.17, 1.57, 2.10, 2.60),
)
SPR_TABLE = {HU_COLUMN: list(SPR_KNOTS[0]), SPR_COLUMN: list(SPR_KNOTS[1])}
