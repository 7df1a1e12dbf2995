#include "trainer/version.hpp"

#include <fmt/format.h>
#include <hdf5.h>
#include <lzma.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

#include <CLI/Version.hpp>
#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>

#include "model/attention.hpp"

namespace nibble {
namespace {

std::string dotted(unsigned major, unsigned minor, unsigned patch) {
  return fmt::format("{}.{}.{}", major, minor, patch);
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, patch = 0;
  H5get_libversion(&major, &minor, &patch);
  return dotted(major, minor, patch);
}

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return dotted(static_cast<unsigned>(version->major), static_cast<unsigned>(version->minor),
                static_cast<unsigned>(version->patch));
}

/// fmt and xxHash count in powers of a hundred: 90100 is 9.1.0.
std::string decimal_version(unsigned number) { return dotted(number / 10000, number / 100 % 100, number % 100); }

}  // namespace

std::vector<std::pair<std::string, std::string>> versions() {
  std::vector<std::pair<std::string, std::string>> list = {
      {"nibble", NIBBLE_VERSION},
      {"compiler", __VERSION__},
      {"oneDNN", onednn_version()},
      {"HDF5", hdf5_version()},
      {"SentencePiece", SENTENCEPIECE_VERSION},
      {"yaml-cpp", YAML_CPP_VERSION},
      {"xxHash", decimal_version(XXH_versionNumber())},
      {"liblzma", lzma_version_string()},
      {"zlib", zlibVersion()},
      {"zstd", ZSTD_versionString()},
      {"fmt", decimal_version(FMT_VERSION)},
      {"nlohmann-json", dotted(NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
      {"CLI11", CLI11_VERSION}};
  if (const AttentionLibrary library = attention_library(); library.missing.empty())
    list.emplace_back("cuDNN", library.version);
  return list;
}

std::string versions_text() {
  std::string text;
  for (const auto& [name, version] : versions())
    text += fmt::format("{}{} {}", text.empty() ? "" : "\n", name, version);
  return text;
}

}  // namespace nibble
