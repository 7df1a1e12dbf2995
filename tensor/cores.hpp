// How many cores this process may run on.
#pragma once

namespace nibble {

/// Those of its affinity mask, which launchers and control groups make smaller than the machine.
int usable_cores();

}  // namespace nibble
