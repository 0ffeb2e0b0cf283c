"""What can be chosen in the panel, in the words that stand there and in saved scenes."""

ALL_VIEWS = "all named views"
ANGLES = "C-arm angles"
SCENE = "the CT's place in the scene"
INITIAL_POSES = (ALL_VIEWS, "ap", "pa", "left", "right", ANGLES, SCENE)

OVERLAY, XRAY, DRR, RED_BLUE, SIGNED, CHECKERBOARD = PICTURES = (
    "overlay",
    "X-ray",
    "DRR",
    "difference, red and blue",
    "signed difference",
    "checkerboard",
)
