"""A sweep over the image-prompt scale: its plan, its journal on disk, and the sheet, animations and page it leaves."""
