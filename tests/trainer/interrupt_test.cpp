// What signals ask of a run.
#include "trainer/interrupt.hpp"

#include <gtest/gtest.h>

#include <csignal>

#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

StopWish after(std::initializer_list<int> raised) {
  const InterruptScope scope;
  for (const int signal : raised) std::raise(signal);
  return InterruptScope::wish();
}

TEST(Interrupt, APersonsSignalsInterrupt) {
  EXPECT_EQ(after({}), StopWish::none);
  EXPECT_EQ(after({SIGINT}), StopWish::interrupt);
  EXPECT_EQ(after({SIGTERM}), StopWish::interrupt);
  EXPECT_EQ(after({SIGHUP}), StopWish::interrupt);
}

TEST(Interrupt, UnderALauncherTheyAskToBeStartedAgain) {
  const ScopedEnvironment launcher("OMPI_COMM_WORLD_SIZE", "2");
  EXPECT_EQ(after({SIGTERM}), StopWish::requeue);
  EXPECT_EQ(after({SIGINT}), StopWish::requeue);
}

TEST(Interrupt, TheLaunchersSignalMayComeAgainAndAgain) {
  EXPECT_EQ(after({SIGUSR1}), StopWish::requeue);
  EXPECT_EQ(after({SIGUSR1, SIGUSR1, SIGTERM, SIGUSR1}), StopWish::requeue);
}

TEST(Interrupt, ASecondSignalOfAPersonEndsTheProcess) {
  EXPECT_EXIT(after({SIGTERM, SIGINT}), testing::KilledBySignal(SIGINT), "");
  EXPECT_EXIT(after({SIGUSR1, SIGTERM, SIGTERM}), testing::KilledBySignal(SIGTERM), "");
}

TEST(Interrupt, WhatWasBeforeComesBack) {
  struct sigaction before {
  }, now{};
  sigaction(SIGUSR1, nullptr, &before);
  after({SIGUSR1});
  sigaction(SIGUSR1, nullptr, &now);
  EXPECT_EQ(now.sa_handler, before.sa_handler);
}

}  // namespace
}  // namespace nibble
