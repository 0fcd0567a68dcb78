// Files that are cut off while they are mapped: reading beyond their new end gives zeros and is counted, in place of
// ending the process with SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lk::formats {

// Watch a mapping; its number, or 0 where the system or a full table does not allow it.
size_t watch(const void* begin, size_t size);
// Forget a mapping, before it is unmapped.
void forget(size_t number);
// Pages of a mapping that were read and are not in its file any more.
uint64_t lost_pages(size_t number);

}  // namespace lk::formats
