// Asserts the kind of an Error and what its message says.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tensor/error.hpp"

namespace nibble {

/// Runs `action` and expects an Error of that kind whose message holds each of the texts.
template <class Action>
void expect_error(ErrorKind kind, const std::vector<std::string>& texts, Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& text : texts)
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << text << " is not in:\n" << error.what();
    return;
  }
  ADD_FAILURE() << "no error, expected one with: " << (texts.empty() ? "" : texts[0]);
}

}  // namespace nibble
