// What could keep the ranks of a run from working together, checked before a run is started.
//
// Not for the text of the answer (trainer/doctor_output.hpp).
#pragma once

#include <string>
#include <vector>

#include "comm/world.hpp"
#include "tensor/error.hpp"
#include "trainer/gpu_diagnosis.hpp"
#include "trainer/link_measurement.hpp"
#include "trainer/machine_facts.hpp"
#include "trainer/settings.hpp"

namespace nibble {

enum class Verdict { ok, warning, failed };
const char* name(Verdict verdict);

struct Finding {
  std::string check;  ///< "cores"
  Verdict verdict = Verdict::ok;
  std::string found;
  std::string next{};                        ///< what to do, unless all is well
  ErrorKind who = ErrorKind::configuration;  ///< must act where it failed
};

/// The same on every rank.
struct Diagnosis {
  std::vector<std::string> hosts;           ///< by rank
  std::vector<MachineFacts> machines;       ///< by rank
  std::vector<std::string> gemm;            ///< by rank: what multiplies
  std::vector<double> gemm_peak;            ///< by rank: TFLOP/s while all ranks multiply
  std::vector<std::vector<GpuFacts>> gpus;  ///< by rank: what the first rank of each host may use
  std::vector<Link> links;                  ///< empty for one rank
  std::vector<Finding> findings;
};

/// All ranks call it. `settings` of a run, or null: then neither configuration nor data are compared.
Diagnosis diagnose(World& world, const Settings* settings);

/// 0, or the exit code of the first finding that failed.
int exit_code(const Diagnosis& diagnosis);

/// The index of the link with the least bandwidth. There is one.
size_t slowest(const std::vector<Link>& links);

// The judgements, each of what all ranks told.

/// Ranks of one host whose threads have too few cores, or that were given a part of the host's.
Finding judge_cores(const std::vector<std::string>& hosts, const std::vector<MachineFacts>& machines);
/// Ranks on several hosts that have several networks, of which MPI was told none.
Finding judge_network(const std::vector<std::string>& hosts, const std::vector<MachineFacts>& machines);
Finding judge_environment(const std::vector<MachineFacts>& machines);
Finding judge_disk(const std::vector<std::string>& hosts, const std::vector<MachineFacts>& machines);
Finding judge_links(const std::vector<Link>& links);
/// `wrong` elements by rank.
Finding judge_products(const std::vector<int64_t>& wrong);
/// What the quantizers' self-test found, by rank; empty: nothing.
Finding judge_quantizers(const std::vector<std::string>& unsound);
/// GPUs that do not work, compute wrong or are not alike; `wanted`: the run computes there.
Finding judge_gpus(const std::vector<std::string>& hosts, const std::vector<std::vector<GpuFacts>>& gpus, bool wanted);
/// Ranks that multiply much slower than most.
Finding judge_peaks(const std::vector<double>& peaks);

}  // namespace nibble
