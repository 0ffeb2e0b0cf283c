"""What can be chosen in the panel, in the words that stand there and in saved scenes."""

ALL_VIEWS = "all named views"
XRAY_SAYS = "what the X-ray says"
ANGLES = "C-arm angles"
SCENE = "the CT's place in the scene"
ASK_MODEL = "the model's regressor"
INITIAL_POSES = (ALL_VIEWS, XRAY_SAYS, "ap", "pa", "left", "right", ANGLES, SCENE, ASK_MODEL)

NO_MODEL, SHIPPED_MODEL, MODEL_FILE, OWN_MODEL = MODELS = (
    "none (intensities alone)",
    "shipped (of the sample pelvis)",
    "from a file",
    "trained for this patient",
)

OVERLAY, XRAY, DRR, RED_BLUE, SIGNED, CHECKERBOARD = PICTURES = (
    "overlay",
    "X-ray",
    "DRR",
    "difference, red and blue",
    "signed difference",
    "checkerboard",
)
