#!/usr/bin/env bash
# A conversation with a Llama-2-chat model, in the format it was trained on; bash, curl and jq.
#   API_URL=http://127.0.0.1:8080 examples/chat-llama2.sh
set -euo pipefail

API_URL="${API_URL:-http://127.0.0.1:8080}"
N_PREDICT="${N_PREDICT:-512}"
SYSTEM="${SYSTEM:-You are a helpful assistant. Answer truthfully and briefly, and say so when you do not know.}"
HISTORY=""

post() { # PATH, with the body on standard input
  curl --silent --show-error --fail-with-body --no-buffer --header 'Content-Type: application/json' \
    --data-binary @- "$API_URL$1"
}

# The first message carries the system prompt; every later one stands in its own <s>[INST] ... [/INST]. The very
# first <s> is the BOS that the server adds.
message() { # QUESTION
  if [[ -z "$HISTORY" ]]; then
    printf '[INST] <<SYS>>\n%s\n<</SYS>>\n\n%s [/INST]' "$SYSTEM" "$1"
  else
    printf '<s>[INST] %s [/INST]' "$1"
  fi
}

answer() { # PROMPT; shows the answer as it comes and leaves it in ANSWER
  local line body content
  ANSWER=""
  body="$(printf '%s' "$1" | jq --raw-input --slurp --argjson predict "$N_PREDICT" '{
    prompt: ., n_keep: -1, n_predict: $predict, temperature: 0.2, top_k: 40, top_p: 0.9,
    cache_prompt: true, stop: ["[INST]"], stream: true }')"
  while IFS= read -r line; do
    [[ "$line" == data:* ]] || { [[ -z "$line" ]] || printf '%s\n' "$line" >&2; continue; } # an error's body
    # The x keeps the line ends that $( ) would take away.
    content="$(jq --join-output '.content // ("\n" + (.error.message // "")), "x"' <<< "${line#data:}")"
    printf '%s' "${content%x}"
    ANSWER+="${content%x}"
  done < <(post /completion <<< "$body")
  printf '\n'
}

while IFS= read -r -e -p "> " question; do
  [[ -n "$question" ]] || continue
  PROMPT="$HISTORY$(message "$question")"
  answer "$PROMPT"
  HISTORY="$PROMPT $ANSWER </s>"
done
