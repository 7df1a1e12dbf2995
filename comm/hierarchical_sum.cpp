#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/group_communicator.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

/// Ranks by host, each in ascending order.
std::vector<std::vector<int>> ranks_of_hosts(const std::vector<int>& host) {
  std::map<int, std::vector<int>> by_host;
  for (size_t rank = 0; rank < host.size(); ++rank) by_host[host[rank]].push_back(static_cast<int>(rank));
  std::vector<std::vector<int>> hosts;
  for (const auto& [number, ranks] : by_host) hosts.push_back(ranks);
  for (const std::vector<int>& ranks : hosts)
    if (ranks.size() != hosts.front().size())
      throw Error({.kind = ErrorKind::configuration,
                   .what = "hosts have different numbers of ranks",
                   .where = "gradients.hierarchical",
                   .seen = fmt::format("{} and {}", hosts.front().size(), ranks.size()),
                   .allowed = "as many on each",
                   .next = "start as many ranks on every host, or set gradients.hierarchical=false"});
  return hosts;
}

// Within a host the rank in seat i collects what the ranks in seat i of all hosts own; those then sum it between hosts,
// where each has its own part.
class HierarchicalSum final : public BucketSum {
 public:
  HierarchicalSum(const BucketPlace& place, const std::vector<int>& host,
                  const std::function<BucketSumPointer(const BucketPlace&)>& make_inner)
      : place_(place), hosts_(ranks_of_hosts(host)), make_inner_(make_inner) {
    for (size_t h = 0; h < hosts_.size(); ++h)
      if (const auto found = std::ranges::find(hosts_[h], place.rank); found != hosts_[h].end()) {
        own_host_ = h;
        own_seat_ = static_cast<size_t>(found - hosts_[h].begin());
      }
    inner_ = make_inner_(place_between_hosts(own_seat_));
  }

  std::string description() const override { return inner_->description() + ", between hosts"; }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float>) override {
    GroupCommunicator host(ranks, hosts_[own_host_]);
    Parts by_seat, mine;
    for (size_t seat = 0; seat < hosts_.front().size(); ++seat) {
      by_seat.emplace_back();
      for (const std::vector<int>& members : hosts_)
        by_seat.back().insert(by_seat.back().end(), values[static_cast<size_t>(members[seat])].begin(),
                              values[static_cast<size_t>(members[seat])].end());
    }
    reduce_scatter(host, by_seat, Wire::f32);
    std::vector<int> peers;
    for (const std::vector<int>& members : hosts_) {
      peers.push_back(members[own_seat_]);
      mine.push_back(values[static_cast<size_t>(members[own_seat_])]);
    }
    GroupCommunicator between(ranks, peers);
    inner_->sum(between, mine, step, {});
    if (place_.goes == SumGoes::to_all) all_gather(host, by_seat, Wire::f32);
  }

  void commit() override { inner_->commit(); }
  void discard() override { inner_->discard(); }
  // Every rank names the state of all seats; of the others' it has nothing, and what names it takes only addresses.
  void state(StateList& list, const std::string& prefix) override {
    for (size_t seat = 0; seat < hosts_.front().size(); ++seat) {
      const std::string name = fmt::format("{}seat{}/", prefix, seat);
      if (seat == own_seat_) {
        inner_->state(list, name);
        continue;
      }
      BucketPlace place = place_between_hosts(seat);
      place.memory = Place::host;
      place.scratch = std::make_shared<SumScratch>(place.elements());
      StateList theirs;
      make_inner_(place)->state(theirs, name);
      for (const StateList::Entry& entry : theirs.entries())
        list.add_addend_of_others(entry.name, entry.tensor.dtype, entry.rows, entry.cols);
    }
  }
  double residual_square() const override { return inner_->residual_square(); }

 private:
  BucketPlace place_between_hosts(size_t seat) const {
    BucketPlace place = place_;
    place.rank = static_cast<int>(own_host_);
    place.part_elements.clear();
    for (const std::vector<int>& ranks : hosts_)
      place.part_elements.push_back(place_.part_elements[static_cast<size_t>(ranks[seat])]);
    return place;
  }

  BucketPlace place_;
  std::vector<std::vector<int>> hosts_;
  std::function<BucketSumPointer(const BucketPlace&)> make_inner_;
  size_t own_host_ = 0, own_seat_ = 0;
  BucketSumPointer inner_;
};

}  // namespace

BucketSumPointer make_hierarchical_sum(const BucketPlace& place, const std::vector<int>& host,
                                       const std::function<BucketSumPointer(const BucketPlace&)>& make_inner) {
  return std::make_unique<HierarchicalSum>(place, host, make_inner);
}

}  // namespace nibble
