"""Layers: convolutions, and how they run at smaller widths or over several processes."""
