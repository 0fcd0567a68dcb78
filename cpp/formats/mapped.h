// Files that are cut off while they are mapped: reading beyond their new end gives zeros and is counted, in place of
// ending the process with SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lk::formats {

// Watch a mapping; false where the system or a full table does not allow it.
bool watch(const void* begin, size_t size);
// Forget a mapping, before it is unmapped.
void forget(const void* begin);
// Pages of a mapping that were read and are not in its file any more.
uint64_t lost_pages(const void* begin);

}  // namespace lk::formats
