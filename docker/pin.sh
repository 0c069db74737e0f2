#!/usr/bin/env bash
# Pin the public images of the Dockerfiles and of compose.yaml by digest, as the registry has them now:
#   docker/pin.sh [FILE …]
# A tag gets the digest behind it (name:tag@sha256:…); run again, it gets today's. Every digest is looked up first: where one cannot be,
# no file is touched. Needs skopeo, or Docker with buildx.
set -euo pipefail
cd "$(dirname "$0")/.."

refuse() {
  echo "pin.sh: $1; $2" >&2
  exit 1
}

if command -v skopeo >/dev/null; then
  raw() { skopeo inspect --raw "docker://$1"; }
elif docker buildx version >/dev/null 2>&1; then
  raw() { docker buildx imagetools inspect --raw "$1"; }
else
  refuse "neither skopeo nor docker buildx is here, one of them expected" "install skopeo"
fi

files=("$@")
[ ${#files[@]} -gt 0 ] || files=(docker/*.Dockerfile docker/compose*.yaml)

# Images that are built here (loraflow/…, or named by a variable) have no digest to look up.
mapfile -t images < <(sed -nE 's/^ARG BASE=([^[:space:]]+)$/\1/p; s/^[[:space:]]+image: ([[:alnum:]][^[:space:]]*)$/\1/p' "${files[@]}" |
  grep -vE '^loraflow/|[$]' | sed 's/@sha256:.*//' | sort -u)
[ ${#images[@]} -gt 0 ] || refuse "${files[*]} name no public image" "name files that do"

declare -A digests
for image in "${images[@]}"; do
  # The digest is the hash of the manifest's bytes: what was looked up is what is written.
  manifest=$(mktemp)
  raw "$image" >"$manifest" 2>"$manifest.err" ||
    refuse "$image: no manifest to be had ($(tail -n 1 "$manifest.err"))" "see to the network or the name; nothing was changed"
  grep -q '"schemaVersion"' "$manifest" || refuse "$image: what the registry sent is no manifest" "nothing was changed"
  digests[$image]=sha256:$(sha256sum "$manifest" | cut -d ' ' -f 1)
  rm "$manifest" "$manifest.err"
done

for image in "${images[@]}"; do
  name=${image//./\\.}
  sed -i -E "s|^(ARG BASE=\|[[:space:]]+image: )${name}(@sha256:[0-9a-f]{64})?$|\1${image}@${digests[$image]}|" "${files[@]}"
  echo "$image@${digests[$image]}"
done
