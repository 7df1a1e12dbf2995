#include "tensor/cuda/racecheck/code_place.hpp"

#include <fmt/format.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

namespace nibble::cuda::racecheck {
namespace {

struct Program {
  uintptr_t base = 0, begin = UINTPTR_MAX, end = 0;
};

const Program& program() {
  static const Program found = [] {
    Program first;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          auto& program = *static_cast<Program*>(out);
          program.base = info->dlpi_addr;
          for (size_t i = 0; i < info->dlpi_phnum; ++i) {
            const auto& part = info->dlpi_phdr[i];
            if (part.p_type != PT_LOAD) continue;
            program.begin = std::min<uintptr_t>(program.begin, info->dlpi_addr + part.p_vaddr);
            program.end = std::max<uintptr_t>(program.end, info->dlpi_addr + part.p_vaddr + part.p_memsz);
          }
          return 1;  // the program comes first
        },
        &first);
    return first;
  }();
  return found;
}

/// Pairs of a function and "file:line", the innermost first.
std::vector<std::pair<std::string, std::string>> frames(uint32_t address) {
  const std::string command = fmt::format("addr2line -C -f -i -e /proc/{}/exe {:#x} 2>/dev/null", getpid(), address);
  std::string text;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  char part[4096];
  while (pipe && fgets(part, sizeof part, pipe.get())) text += part;
  std::vector<std::pair<std::string, std::string>> found;
  for (size_t at = 0; at < text.size();) {
    const size_t name_end = text.find('\n', at), place_end = text.find('\n', name_end + 1);
    if (place_end == std::string::npos) break;
    std::string place = text.substr(name_end + 1, place_end - name_end - 1);
    place = place.substr(0, place.find(" (discriminator"));
    found.emplace_back(text.substr(at, name_end - at), place);
    at = place_end + 1;
  }
  return found;
}

/// Without what its parameters and namespaces are.
std::string short_name(const std::string& function) {
  std::string name = function;
  for (const std::string& part : {std::string("(anonymous namespace)::"), std::string("nibble::cuda::")})
    for (size_t at; (at = name.find(part)) != std::string::npos;) name.erase(at, part.size());
  return name.substr(0, name.find('('));
}

}  // namespace

uint32_t linked_address(const void* code) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(code) - program().base);
}

bool in_program(const volatile void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return at >= program().begin && at < program().end;
}

std::string code_place(uint32_t address) {
  std::string text;
  for (const auto& [function, place] : frames(address - 1))  // where a call returns to is behind it
    text += fmt::format("{}{} at {}", text.empty() ? "" : ", in ", short_name(function),
                        place.substr(place.rfind('/') + 1));
  return text.empty() ? fmt::format("{:#x}", address) : text;
}

std::string function_name(uint32_t address) {
  const auto found = frames(address);
  return found.empty() ? fmt::format("kernel at {:#x}", address) : short_name(found.back().first);
}

}  // namespace nibble::cuda::racecheck
