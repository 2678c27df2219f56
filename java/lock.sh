#!/usr/bin/env bash
# Remakes java/*.lock from java/pom-*.xml. For maintainers; needs Maven and a network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for pom in pom-*.xml; do
  name=${pom#pom-}
  name=${name%.xml}
  mvn --batch-mode --quiet -f "$pom" dependency:copy-dependencies \
    -DincludeScope=runtime -Dmdep.useRepositoryLayout=true -DoutputDirectory="$work/$name"
  # A repository's path is group/artifact/version/artifact-version[-classifier].jar.
  find "$work/$name" -name '*.jar' -printf '%P\n' | while IFS= read -r path; do
    folder=${path%/*}
    version=${folder##*/}
    folder=${folder%/*}
    artifact=${folder##*/}
    group=${folder%/*}
    file=${path##*/}
    classifier=${file#"$artifact-$version"}
    classifier=${classifier%.jar}
    sha256=$(sha256sum "$work/$name/$path")
    printf '%s:%s:%s%s %s\n' "${group//\//.}" "$artifact" "$version" \
      "${classifier:+:${classifier#-}}" "${sha256%% *}"
  done | LC_ALL=C sort > "$work/$name.lock"
  mv "$work/$name.lock" "$name.lock"
  printf '%s.lock: %s jars\n' "$name" "$(wc -l < "$name.lock")"
done
