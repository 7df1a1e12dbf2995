// Runs the program as a user does.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace nibble {

/// How the program ended.
struct Ended {
  int code = -1;
  std::string output;  ///< stdout and stderr
};

/// Runs `nibble ARGUMENTS` through the shell.
inline Ended nibble(const std::string& arguments) {
  Ended ended;
  std::FILE* pipe = popen(("'" NIBBLE_BINARY "' " + arguments + " 2>&1").c_str(), "r");
  if (!pipe) return ended;
  std::array<char, 4096> piece{};
  for (size_t count; (count = std::fread(piece.data(), 1, piece.size(), pipe)) > 0;)
    ended.output.append(piece.data(), count);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) ended.code = WEXITSTATUS(status);
  return ended;
}

inline void expect_said(const Ended& ended, const std::string& text) {
  EXPECT_NE(ended.output.find(text), std::string::npos) << text << " is not in:\n" << ended.output;
}

}  // namespace nibble
