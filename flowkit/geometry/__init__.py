"""Pure geometry in torch: grids, flow algebra, homographies, epipolar and pose geometry."""
