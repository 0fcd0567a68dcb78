// What decoding a JSON text costs, told without decoding it.
#pragma once

#include <cstdint>
#include <string_view>

namespace lk::text {

// A value counts as one, with a fraction as two, a text, an array or an object as `per_large`, and four escapes of a
// text as one more. Numbers of more digits than a double or an int64 has are worked out with long arithmetic, so they
// count half of their digits. What is no JSON counts up to its fault as a decoder sees it.
uint64_t json_cost(std::string_view text, uint64_t per_large);

}  // namespace lk::text
