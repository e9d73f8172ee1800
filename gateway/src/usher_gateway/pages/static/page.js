// Everything works without this file. It will show new counts without a reload.
"use strict";
