#!/usr/bin/env bash
# A conversation in the terminal, by bash, curl and jq.   API_URL=http://127.0.0.1:8080 examples/chat.sh
set -euo pipefail

API_URL="${API_URL:-http://127.0.0.1:8080}"
N_PREDICT="${N_PREDICT:-256}"
INSTRUCTION="A conversation between a curious person and a helpful assistant who answers in a few kind words."
TURNS=(
  "Hello, assistant."
  "Hello. What would you like to know?"
  "Which is the largest planet?"
  "Jupiter is the largest planet of our solar system."
)

post() { # PATH, with the body on standard input
  curl --silent --show-error --fail-with-body --no-buffer --header 'Content-Type: application/json' \
    --data-binary @- "$API_URL$1"
}

prompt() { # QUESTION
  printf '%s' "$INSTRUCTION"
  printf '\n### Person: %s\n### Assistant: %s' "${TURNS[@]}"
  printf '\n### Person: %s\n### Assistant:' "$1"
}

answer() { # QUESTION; shows the answer as it comes and leaves it in ANSWER
  local line body content
  ANSWER=""
  body="$(prompt "$1" | jq --raw-input --slurp --argjson keep "$N_KEEP" --argjson predict "$N_PREDICT" '{
    prompt: ., n_keep: $keep, n_predict: $predict, temperature: 0.2, top_k: 40, top_p: 0.9,
    cache_prompt: true, stop: ["\n### Person:"], stream: true }')"
  while IFS= read -r line; do
    [[ "$line" == data:* ]] || { [[ -z "$line" ]] || printf '%s\n' "$line" >&2; continue; } # an error's body
    # The x keeps the line ends that $( ) would take away.
    content="$(jq --join-output '.content // ("\n" + (.error.message // "")), "x"' <<< "${line#data:}")"
    printf '%s' "${content%x}"
    ANSWER+="${content%x}"
  done < <(post /completion <<< "$body")
  printf '\n'
}

N_KEEP="$(jq --null-input --arg text "$INSTRUCTION" '{content: $text}' | post /tokenize | jq '.tokens | length + 1')"

while IFS= read -r -e -p "> " question; do
  [[ -n "$question" ]] || continue
  answer "$question"
  ANSWER="${ANSWER#"${ANSWER%%[![:space:]]*}"}"
  TURNS+=("$question" "$ANSWER")
done
