#include <cstring>

#include "data/loader.hpp"
#include "data/shard_format.hpp"
#include "tensor/files.hpp"
#include "tests/fuzz/hdf5_script.hpp"
#include "tests/fuzz/readers.hpp"
#include "tests/fuzz/scratch.hpp"

namespace nibble::fuzz {
namespace {

/// Opens the tokens and reads windows of them, as training and evaluation do.
void use(const std::filesystem::path& path) {
  const TokenData data = TokenData::open(path.string());
  for (const Packing packing : {Packing::stream, Packing::documents}) {
    const Loader loader(data, {.sequence = 4, .packing = packing, .mask_documents = true, .seed = 7});
    loader.batch(0, 2);
    loader.evaluation_batch(std::max<int64_t>(0, loader.evaluation_windows() - 2), 2);
  }
  data.require_vocabulary(data.tokenizer().vocabulary);
  data.make_tokenizer();
}

}  // namespace

void read_token_shard(Bytes bytes) { use(scratch().write("tokens.h5", bytes)); }

void read_shard_contents(Bytes bytes) {
  const std::filesystem::path path = scratch().path("contents.h5");
  write_hdf5_script(path, text_of(bytes), ShardHeader::size);
  std::string file = read_file(path, ErrorKind::internal);
  const ShardHeader header{.file_length = file.size(), .checksum = checksum(bytes_of(file).subspan(ShardHeader::size))};
  const auto front = header.encode();
  std::memcpy(file.data(), front.data(), front.size());
  use(scratch().write("contents.h5", bytes_of_text(file)));
}

}  // namespace nibble::fuzz
