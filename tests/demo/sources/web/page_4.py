"""What a visitor sees, version 4, which ends as it starts: the image lacks a module."""

import visitor_statistics
from page_2 import problem as problem
from page_2 import render as render

VERSION = 4
visitor_statistics.enable()
