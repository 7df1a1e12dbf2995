// What the ranks compute together: gathers and sums whose bits do not depend on who arrives first.
//
// Every rank calls the same functions in the same order with matching sizes. Parts and what is broadcast lie where the
// communicator's messages do: in a device's memory they are read and written in the order of its stream
// (Communicator::stream), by kernels that add and round as the host does, to the same bits.
// Not for: compressed sums (exchanges of their own), for when they run (communication_thread.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/pieces.hpp"

namespace nibble {

/// Returns on no rank before all have called it.
void barrier(Communicator& communicator);

/// The same bytes on every rank afterwards: those of `root`. In the messages' memory.
void broadcast(Communicator& communicator, int root, std::span<std::byte> bytes);

/// all = the ranks' parts one behind the other, in the order of the ranks; counts[r] elements come from rank r.
/// `mine` has counts[rank] elements. In the host's memory always, as texts are.
void gather_all(Communicator& communicator, std::span<const double> mine, std::span<const int64_t> counts,
                std::span<double> all);

/// Every rank's text, in the order of the ranks.
std::vector<std::string> gather_all(Communicator& communicator, const std::string& mine);

/// A vector cut among the ranks: parts[r] is what rank r owns of it. Each rank passes pieces of its own memory, of the
/// same sizes on all ranks.
using Parts = std::vector<Pieces>;

/// Every rank gets every part from its owner, around the ring of the ranks. Bytes are carried as they are; a rank sends
/// (P - 1) / P of the vector. Segments that lie in several pieces are staged.
void all_gather(Communicator& communicator, const Parts& parts);

/// How values travel; sums are always formed in f32.
enum class Wire { f32, bf16 };

/// The same for parts of f32 values; with Wire::bf16 they are rounded to nearest, on their owner too.
void all_gather(Communicator& communicator, const Parts& parts, Wire wire);

/// Elements [first, first + count) of the own part, and what each rank contributes to them, packed.
using Consume = std::function<void(int64_t first, int64_t count, std::span<const float* const> contributions)>;

/// Every rank's contribution to this rank's own part, where parts[r] are f32 pieces of this rank's own contribution to
/// the whole vector. With Wire::bf16 each value is rounded to nearest, this rank's own too, so that a sum does not
/// depend on who owns it. `consume` is called for one segment after the other, in order, so that memory is bounded
/// (about 1 MiB for each rank; 16 of a device's memory, 20 with Wire::bf16); it may overwrite the elements of the own
/// part that it is given. P - 1 rounds a segment, in each of which a rank sends to one and receives from another
/// (Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", 2005, pairwise
/// exchange); between devices all at once. There contributions are device memory, for what `consume` queues on the
/// stream.
void scatter_to_owners(Communicator& communicator, const Parts& parts, Wire wire, const Consume& consume);

/// What these take of a communicator's staging, at most.
size_t collective_staging_bytes(int ranks, Place place = Place::host);

/// Every part of the vector is replaced, on its owner, by the sum of all ranks' contributions, added in the tree of
/// plan_lanes(ranks, ranks); what the other parts hold stays. Throws as Communicator::transfer, and
/// Error{configuration} for more than 256 ranks with devices.
void reduce_scatter(Communicator& communicator, const Parts& parts, Wire wire);

}  // namespace nibble
