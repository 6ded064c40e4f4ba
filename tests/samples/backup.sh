#!/usr/bin/env bash
# Copies the museum's database to a dated archive and keeps the last seven.
set -euo pipefail

readonly source_dir="${1:?usage: backup.sh SOURCE TARGET}"
readonly target_dir="${2:?usage: backup.sh SOURCE TARGET}"
readonly keep=7

log() {
    printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2
}

if [[ ! -d "$source_dir" ]]; then
    log "no such folder: $source_dir"
    exit 2
fi

mkdir -p "$target_dir"
archive="$target_dir/museum-$(date +%Y-%m-%d).tar.gz"
trap 'rm -f "$archive.part"' EXIT

tar --create --gzip --file "$archive.part" --directory "$source_dir" .
mv "$archive.part" "$archive"
log "wrote $archive ($(du -h "$archive" | cut -f1))"

mapfile -t old < <(ls -1t "$target_dir"/museum-*.tar.gz | tail -n +$((keep + 1)))
for file in "${old[@]}"; do
    log "removing $file"
    rm -- "$file"
done
