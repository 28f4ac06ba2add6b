# Slicer makes the extension description and the package here.
