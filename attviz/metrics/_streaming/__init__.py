"""What the streaming metrics are built from: states, moments, files and synchronisation."""
