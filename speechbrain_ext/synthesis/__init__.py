"""Speech synthesisers behind one interface, and the rendering of grids."""
