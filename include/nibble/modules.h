// Linear, attention and mixture-of-experts layers by themselves, for engines of their own making:
// docs/modules.md.
#pragma once

#include "nibble/modules/device.h"
#include "nibble/modules/linear.h"
#include "nibble/modules/mla.h"
#include "nibble/modules/moe.h"
