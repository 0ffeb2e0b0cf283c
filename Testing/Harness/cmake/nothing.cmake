# Included where Slicer has more to say.
