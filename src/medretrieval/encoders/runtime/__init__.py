"""Where models run and where their weights come from: torch, OpenVINO, preprocessing, files."""
