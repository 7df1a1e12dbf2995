// Files that fail: every operation on files below one folder is counted, and one of them fails or ends the process.
//
// The functions of the C library that open, write, sync, rename and remove are defined again in the program (it must
// export its symbols), so those of HDF5 and of the C++ library go this way too. fsync does nothing: no test here cuts
// the power, and thousands of saves are tried.
// Not for reading, which changes nothing on the disk.
#pragma once

#include <string>

namespace nibble::faults {

enum class Fault {
  none,
  input_output_error,  ///< that operation fails with EIO
  disk_full,           ///< that operation and all later ones that need room fail with ENOSPC
  short_write,         ///< a write writes half of what it should, once; other operations fail with EIO
  kill,                ///< SIGKILL before the operation
};

/// From now on operations on files below `folder` (with "/" at the end) are counted from 1, and number `at` fails.
/// `only`: counts those alone whose path holds this text.
void arm(const std::string& folder, Fault fault, int at, const std::string& only = {});
void disarm();

/// Operations counted since `arm`.
int operations();

}  // namespace nibble::faults
