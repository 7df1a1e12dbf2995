// HDF5 files from a script of text, so that mutations reach the readers behind HDF5 and not HDF5's own parser, which
// only ever sees files with a right checksum.
//
//   u16 tokens 256 97 98             a vector: f32 f64 i32 i64 u8 u16, its name, its values
//   f32*2 weights/head 1 2 3 4       a matrix of 2 columns
//   integer vocabulary 259           an attribute of the file; integer@tokens: of a dataset
//   text tokenizer byte              the same of text
//   chunked x, compact x, scalar x, null x, cube x, words x, variable x, external x, loop x, group x
//                                    what HDF5 can hold and Nibble never writes
//
// What a line cannot be is left out.
#pragma once

#include <filesystem>
#include <string_view>

namespace nibble::fuzz {

/// `user_block`: 0 or 512 bytes before HDF5's own.
void write_hdf5_script(const std::filesystem::path& path, std::string_view script, uint64_t user_block);

}  // namespace nibble::fuzz
