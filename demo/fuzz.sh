#!/usr/bin/env bash
# Fuzzes the parsers of both libraries with libFuzzer, which is guided by coverage. Requires Rust, a C compiler and a C++ compiler;
# libFuzzer is part of bolero. The targets are also tests (`cargo test fuzz::`), which is how they run in CI.
#
#   demo/fuzz.sh                     lists the targets
#   demo/fuzz.sh MINUTES             runs each target for so many minutes, one after the other
#   demo/fuzz.sh MINUTES TARGET…     runs targets whose name contains one of these texts
#
# Inputs that add coverage are kept in target/fuzz/corpus, also for the next run. With KEEP=1, the smallest of them that have the same
# coverage replace the corpus of the target in the repository, `__fuzz__/TARGET/corpus` beside its source. An input that fails is
# written to `__fuzz__/TARGET/crashes`, where `cargo test` runs it as well: move it into the corpus when the fault is fixed.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-}
[ $# = 0 ] || shift
# The largest input, in bytes, and the largest corpus of a target in the repository, in files.
max_bytes=4096
max_files=${MAX_FILES:-64}

mkdir -p target/fuzz
# All crates are instrumented: most parsing is done by dependencies. The flags are those of bolero's command line program.
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares)
RUSTFLAGS="${flags[*]} ${RUSTFLAGS:-}" cargo test --locked --profile fuzz --target "$host" --target-dir target/fuzz --all-features \
    --workspace --lib --no-run --message-format json-render-diagnostics >target/fuzz/build.json
mapfile -t programs < <(python3 - <<'PYTHON'
import json
for line in open("target/fuzz/build.json"):
    message = json.loads(line)
    if message.get("executable") and message.get("profile", {}).get("test"):
        print(message["executable"])
PYTHON
)

# run_libfuzzer PROGRAM TARGET ARGUMENT…: runs libFuzzer with these arguments.
run_libfuzzer() {
    local program=$1 target=$2
    shift 2
    BOLERO_LIBFUZZER_ARGS="$*" "$program" "$target" --exact --nocapture --test-threads 1
}

# libFuzzer itself ends at Ctrl-C, and the script would go on with the next target.
trap 'echo "interrupted" >&2; exit 130' INT
failed=()
found_any=
for program in "${programs[@]}"; do
    # A target lists itself, with the folder of its corpus. Other tests that the name of the module selects print nothing.
    while IFS=$'\t' read -r target folder; do
        selected=1
        [ $# = 0 ] || selected=
        for text in "$@"; do [[ "$target" != *"$text"* ]] || selected=1; done
        [ -n "$selected" ] || continue
        found_any=1
        if [ -z "$minutes" ]; then
            echo "$target"
            continue
        fi
        found=target/fuzz/corpus/$target
        kept=$folder/corpus
        mkdir -p "$found" "$kept" "$folder/crashes"
        echo "== $target"
        run_libfuzzer "$program" "$target" "$found" "$kept" "-artifact_prefix=$folder/crashes/" "-max_total_time=$((minutes * 60))" \
            "-max_len=$max_bytes" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 >"$found.log" 2>&1 || failed+=("$target")
        grep -aE '^(stat::|.*(INITED|DONE))' "$found.log" | tail -n 8 || true
        if [ "${KEEP:-}" = 1 ]; then
            rm -rf "$found.merged"
            mkdir "$found.merged"
            run_libfuzzer "$program" "$target" -merge=1 "-max_len=$max_bytes" "$found.merged" "$kept" "$found" >>"$found.log" 2>&1
            # libFuzzer merges the smallest inputs first. Those with a name that a person gave are kept.
            find "$kept" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
            find "$found.merged" -type f -printf '%s %p\n' | sort -n | head -n "$max_files" | cut -d' ' -f2- |
                xargs -r cp --target-directory "$kept"
        fi
        # Git tracks no empty folders.
        rmdir --ignore-fail-on-non-empty "$folder/crashes" "$kept" "$folder" 2>/dev/null || true
    done < <(CARGO_BOLERO_SELECT=all "$program" fuzz:: --nocapture --test-threads 1 2>target/fuzz/list.log | python3 -c '
import json, sys
for line in sys.stdin:
    if line.startswith("{\"__bolero_target\""):
        target = json.loads(line)
        print(target["test_name"], target["work_dir"], sep="\t")
')
done
if [ -z "$found_any" ]; then
    echo "no fuzz target has a name with one of these texts: ${*:-(all)}; see target/fuzz/list.log" >&2
    exit 2
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}; see target/fuzz/corpus/*.log"
    exit 1
fi
