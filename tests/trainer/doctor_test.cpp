// nibble doctor: what it judges, and the whole of it on ranks that are threads, and alone as a user starts it.
#include "trainer/doctor.hpp"
#include "trainer/datasheet_peaks.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "comm/local_world.hpp"
#include "tests/comm/rank_threads.hpp"
#include "tests/trainer/run_program.hpp"
#include "trainer/doctor_output.hpp"
#include "trainer/gemm_check.hpp"

namespace nibble {
namespace {

MachineFacts machine(std::vector<int> cores, int host_cores, int threads) {
  return {.cores = std::move(cores), .host_cores = host_cores, .threads = threads, .disk_free = uint64_t{1} << 40};
}

/// A finding that is not ok and says these.
void expect_found(const Finding& finding, Verdict verdict, const std::string& found, const std::string& next) {
  EXPECT_EQ(finding.verdict, verdict) << finding.found;
  EXPECT_NE(finding.found.find(found), std::string::npos) << finding.found;
  EXPECT_NE(finding.next.find(next), std::string::npos) << finding.next;
}

TEST(Doctor, ThreadsWithoutCoresOfTheirOwnAreNoticed) {
  const std::vector<std::string> one_host = {"a", "a"};
  EXPECT_EQ(judge_cores(one_host, {machine({0, 1}, 4, 2), machine({2, 3}, 4, 2)}).verdict, Verdict::ok);
  expect_found(judge_cores(one_host, {machine({0, 1}, 2, 2), machine({0, 1}, 2, 2)}), Verdict::warning,
               "2 ranks with 4 threads together share 2 cores", "run.threads=1");
  expect_found(judge_cores(one_host, {machine({0}, 8, 1), machine({1}, 8, 1)}), Verdict::warning,
               "may use 2 of 8 cores", "slot:PE=4 --bind-to core");
  EXPECT_EQ(judge_cores({"a", "b"}, {machine({0, 1}, 2, 2), machine({0, 1}, 2, 2)}).verdict, Verdict::ok);
}

TEST(Doctor, MpiThatMayUseAnyOfTwoNetworksIsNoticed) {
  MachineFacts facts = machine({0}, 1, 1);
  facts.interfaces = {"lo 127.0.0.1", "eth0 10.0.0.1", "eth0 fe80::1", "ib0 10.1.0.1"};
  EXPECT_EQ(judge_network({"a", "a"}, {facts, facts}).verdict, Verdict::ok);
  expect_found(judge_network({"a", "b"}, {facts, facts}), Verdict::warning, "eth0, ib0", "btl_tcp_if_include eth0");
  facts.environment["OMPI_MCA_btl_tcp_if_include"] = "ib0";
  expect_found(judge_network({"a", "b"}, {facts, facts}), Verdict::ok, "btl_tcp_if_include=ib0", "");
  facts.environment.clear();
  facts.interfaces.pop_back();
  EXPECT_EQ(judge_network({"a", "b"}, {facts, facts}).verdict, Verdict::ok);
}

TEST(Doctor, AVariableOfOneRankIsNoticed) {
  MachineFacts one = machine({0}, 1, 1), other = one;
  EXPECT_EQ(judge_environment({one, other}).verdict, Verdict::ok);
  other.environment["NIBBLE_ISA"] = "avx2";
  expect_found(judge_environment({one, other}), Verdict::warning, "NIBBLE_ISA: not set on rank 0, avx2 on rank 1",
               "mpirun -x NIBBLE_ISA");
}

TEST(Doctor, DiskLinksAndProductsAreJudged) {
  MachineFacts good = machine({0}, 1, 1), full = good, closed = good;
  full.disk_free = 1000;
  closed.disk_trouble = "/runs: nothing may be written there";
  EXPECT_EQ(judge_disk({"a", "b"}, {good, good}).verdict, Verdict::ok);
  expect_found(judge_disk({"a", "b"}, {good, full}), Verdict::warning, "on b", "make room");
  expect_found(judge_disk({"a", "b"}, {good, closed}), Verdict::failed, "rank 1 on b: /runs", "run.directory");

  const std::vector<Link> links = {{0, 1, 1e-5, 1e9}, {1, 0, 1e-5, 1e9}, {0, 2, 2e-5, 1e8}};
  expect_found(judge_links(links), Verdict::warning, "rank 0 to 2, 100.0 MB/s, 20 us", "cable");
  EXPECT_EQ(judge_links({links[0], links[1]}).verdict, Verdict::ok);

  EXPECT_EQ(judge_products({0, 0}).verdict, Verdict::ok);
  expect_found(judge_products({0, 3}), Verdict::failed, "rank 1: 3 elements", "NIBBLE_GEMM=onednn");
  EXPECT_EQ(judge_quantizers({"", ""}).verdict, Verdict::ok);
  expect_found(judge_quantizers({"", "nvfp4: biased"}), Verdict::failed, "rank 1: nvfp4: biased", "NIBBLE_ISA=avx2");
  expect_found(judge_peaks({1, 1, 0.5}), Verdict::warning, "rank 2, 0.50", "its host");
  EXPECT_EQ(judge_peaks({1, 0.9}).verdict, Verdict::ok);
}

TEST(Doctor, TheFirstFailureGivesTheExitCode) {
  Diagnosis diagnosis{
      .hosts = {}, .machines = {}, .gemm = {}, .gemm_peak = {}, .gpus = {}, .links = {}, .findings = {}};
  diagnosis.findings = {{.check = "a", .verdict = Verdict::warning, .found = ""}};
  EXPECT_EQ(exit_code(diagnosis), 0);
  diagnosis.findings.push_back({.check = "b", .verdict = Verdict::failed, .found = "", .who = ErrorKind::data});
  diagnosis.findings.push_back({.check = "c", .verdict = Verdict::failed, .found = ""});
  EXPECT_EQ(exit_code(diagnosis), 3);
}

TEST(Doctor, ProductsOfWholeNumbersAreExact) {
  Stream stream(2);
  EXPECT_EQ(wrong_elements(stream, DType::f32), 0);
  EXPECT_EQ(wrong_elements(stream, DType::bf16), 0);
}

TEST(Doctor, CoresAreRanges) {
  EXPECT_EQ(format_cores({0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
  EXPECT_EQ(format_cores({}), "");
}

TEST(Doctor, JudgesGpus) {
  const std::vector<std::string> hosts = {"a", "b"};
  const GpuFacts sound{.name = "NVIDIA H200", .architecture = 90, .peak = 700};
  GpuFacts wrong = sound, unsound = sound, other = sound;
  wrong.wrong = 3;
  unsound.unsound = "quartet2, x";
  other.name = "NVIDIA H100 PCIe";
  const auto judged = [&](const std::vector<GpuFacts>& first, const std::vector<GpuFacts>& second, bool wanted = true) {
    return judge_gpus(hosts, {first, second}, wanted);
  };
  EXPECT_EQ(judged({sound, sound}, {sound}).found, "3 x NVIDIA H200: products and codes are right");
  EXPECT_EQ(judged({}, {}, false).verdict, Verdict::ok);
  EXPECT_EQ(judged({}, {}).verdict, Verdict::failed);
  EXPECT_EQ(judged({sound}, {other}).verdict, Verdict::warning);
  EXPECT_EQ(judged({sound}, {sound, wrong}).found, "b, GPU 1: 3 elements of products are wrong");
  EXPECT_NE(judged({unsound}, {sound}).found.find("quartet2, x"), std::string::npos);
}

TEST(Doctor, KnowsWhatDatasheetsSay) {
  EXPECT_EQ(datasheet_peaks("NVIDIA H200")->bf16, datasheet_peaks("NVIDIA H100 80GB HBM3")->bf16);
  EXPECT_LT(datasheet_peaks("NVIDIA H100 PCIe")->bf16, datasheet_peaks("NVIDIA H100 80GB HBM3")->bf16);
  EXPECT_LT(datasheet_peaks("NVIDIA H200 NVL")->bf16, datasheet_peaks("NVIDIA H200")->bf16);
  EXPECT_GT(datasheet_peaks("NVIDIA GB200")->fp4, datasheet_peaks("NVIDIA B200")->fp4);
  EXPECT_EQ(datasheet_peaks("NVIDIA GB200")->host_link, 900.0 / 2 / 2) << "of two GPUs, both ways together";
  EXPECT_FALSE(datasheet_peaks("the emulated device"));
}

TEST(Doctor, MeasuresEveryPairOfFewRanksAndASampleOfMany) {
  EXPECT_EQ(pairs_to_measure(1).size(), 0u);
  EXPECT_EQ(pairs_to_measure(16).size(), 16u * 15);
  EXPECT_LT(pairs_to_measure(64).size(), 4u * 64);
}

TEST(Doctor, RanksTellEachOtherTheSame) {
  std::vector<std::string> texts(3);
  std::vector<std::unique_ptr<Communicator>> communicators = make_thread_communicators(3);
  std::vector<std::jthread> threads;
  for (size_t rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      const std::unique_ptr<World> world = make_local_world(std::move(communicators[rank]));
      const Settings settings{.data = {.train = "no-such-file.h5"}, .run = {.threads = 1}};
      const Diagnosis diagnosis = diagnose(*world, &settings);
      texts[rank] = diagnosis_text(diagnosis);
      EXPECT_EQ(diagnosis_json(diagnosis)["links"].size(), 6u);
      EXPECT_EQ(exit_code(diagnosis), 3) << "there are no data";
    });
  threads.clear();
  EXPECT_EQ(texts[1], texts[0]);
  EXPECT_EQ(texts[2], texts[0]);
  EXPECT_NE(texts[0].find("data           FAILED   no-such-file.h5"), std::string::npos) << texts[0];
  EXPECT_NE(texts[0].find("GEMM answer    ok"), std::string::npos) << texts[0];
  EXPECT_NE(texts[0].find("from, to"), std::string::npos) << texts[0];
}

TEST(Doctor, AloneAsAUserStartsIt) {
  const Ended ended = nibble("doctor --json");
  ASSERT_EQ(ended.code, 0) << ended.output;
  const nlohmann::json answer = nlohmann::json::parse(ended.output);
  EXPECT_EQ(answer["ranks"].size(), 1u);
  EXPECT_GT(answer["ranks"][0]["gemm_peak_tflops"], 0.0);
  EXPECT_GT(answer["ranks"][0]["machine"]["memory_available"], 0);

  const Ended missing = nibble("doctor no-such-run.yaml");
  EXPECT_EQ(missing.code, 2);
  expect_said(missing, "no-such-run.yaml");
}

}  // namespace
}  // namespace nibble
