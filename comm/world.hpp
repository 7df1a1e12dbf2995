// The ranks of this run: who they are, how they talk, and how all of them end when one fails.
//
// Not for what they say to each other (collectives.hpp, exchange.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/communication_thread.hpp"
#include "tensor/error.hpp"

namespace nibble {

class World {
 public:
  virtual ~World() = default;

  int rank() const { return thread().rank(); }
  int size() const { return thread().size(); }
  bool is_first() const { return rank() == 0; }  ///< the rank that speaks for all: progress, metrics, manifests

  virtual CommunicationThread& thread() const = 0;
  /// How many ranks share this rank's host, and the how-manieth of these it is.
  virtual int local_size() const = 0;
  virtual int local_rank() const = 0;
  /// By rank.
  virtual const std::vector<std::string>& hosts() const = 0;

  /// Where this rank is: what the others say about it should it die. `phase` is a literal: "backward pass".
  virtual void at(int64_t step, const char* phase) = 0;
};

}  // namespace nibble
