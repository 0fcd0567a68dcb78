// What decoding a JSON text costs, told without decoding it.
#pragma once

#include <cstdint>
#include <string_view>

namespace lk::text {

// A value counts as one, with a fraction or an exponent as two, a text, an array or an object as `per_large`, and four
// escapes of a text as one more. Numbers that are worked out with long arithmetic count more: half of their digits
// where they have more than 19 from the first that is not 0, a tenth of the zeros before it, and twice the digits
// before the point where 15 or more are there, or an exponent puts them there. What is no JSON counts up to its fault
// as a decoder sees it.
uint64_t json_cost(std::string_view text, uint64_t per_large);

}  // namespace lk::text
