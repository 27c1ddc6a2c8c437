"""Where artefacts lie, what is measured once and kept, and the device everything runs on."""
