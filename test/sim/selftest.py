#!/usr/bin/env python3
"""Tests of the simulator itself: raw sockets for bytes, curl for a client.

selftest.py                 all tests
selftest.py Wire.test_cut   one of them
"""

import sys
import unittest

sys.dont_write_bytecode = True

from selftests.control import Process, Records, Rules    # noqa: E402, F401
from selftests.listening import Listeners                # noqa: E402, F401
from selftests.on_the_wire import Wire                   # noqa: E402, F401
from selftests.said import (                             # noqa: E402, F401
    Answers, Judge, Modules, Templates)

if __name__ == "__main__":
    unittest.main()
