// What a rank knows of the process and the machine that it runs on.
//
// Not for judging it (trainer/doctor.hpp).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tensor/stream.hpp"

namespace nibble {

struct MachineFacts {
  int64_t process = 0;
  std::vector<int> cores{};  ///< that the process may use
  int host_cores = 0;        ///< that are switched on
  int threads = 0;
  std::string instruction_set{};
  uint64_t memory_available = 0;
  std::string memory_limit{};                        ///< who sets it
  uint64_t disk_free = 0;                            ///< where the run's directory is or will be
  std::string disk_trouble{};                        ///< why that is not known
  std::vector<std::string> interfaces{};             ///< those that are up: "eth0 10.0.0.5"
  std::map<std::string, std::string> environment{};  ///< of OpenMP, MPI and Nibble, as far as people set it
};

MachineFacts machine_facts(const Stream& stream, const std::string& run_directory);

void to_json(nlohmann::ordered_json& json, const MachineFacts& facts);
void from_json(const nlohmann::ordered_json& json, MachineFacts& facts);

/// {0, 1, 2, 5} -> "0-2,5".
std::string format_cores(const std::vector<int>& cores);

}  // namespace nibble
