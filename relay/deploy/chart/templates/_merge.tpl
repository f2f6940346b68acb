{{- /* relay.patched: the object that the template relay.<of> makes, with patches.<of> merged in. */ -}}
{{- define "relay.patched" -}}
{{- $object := include (print "relay." .of) .root | fromYaml -}}
{{- with $object.Error }}{{ fail . }}{{ end -}}
{{- include "relay.merge" (dict "into" $object "patch" (index .root.Values.patches .of)) -}}
{{- toYaml $object -}}
{{- end -}}

{{- /* relay.merge: merge the map `patch` into the map `into`, in place. */ -}}
{{- define "relay.merge" -}}
{{- $into := .into -}}
{{- range $key, $new := .patch -}}
{{- $old := index $into $key -}}
{{- if kindIs "map" $new -}}
{{- if eq (index $new "$patch" | toString) "delete" -}}
{{- $_ := unset $into $key -}}
{{- else -}}
{{- $map := ternary $old dict (kindIs "map" $old) -}}
{{- include "relay.merge" (dict "into" $map "patch" $new) -}}
{{- $_ := set $into $key $map -}}
{{- end -}}
{{- else if kindIs "slice" $new -}}
{{- $lists := dict "old" (ternary $old list (kindIs "slice" $old)) "new" $new -}}
{{- include "relay.mergeLists" $lists -}}
{{- $_ := set $into $key $lists.merged -}}
{{- else -}}
{{- $_ := set $into $key $new -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* relay.mergeLists: set `merged` to `old` with the items of `new` merged in by their key, which
is mountPath of mounts and else name; a list whose items have none is replaced. */ -}}
{{- define "relay.mergeLists" -}}
{{- $byKey := dict -}}
{{- $order := list -}}
{{- $keyed := true -}}
{{- range concat .old .new -}}
{{- $key := "" -}}
{{- if kindIs "map" . -}}{{- $key = .mountPath | default .name -}}{{- end -}}
{{- if $key -}}
{{- $order = append $order $key -}}
{{- include "relay.merge" (dict "into" $byKey "patch" (dict $key .)) -}}
{{- else -}}
{{- $keyed = false -}}
{{- end -}}
{{- end -}}
{{- $merged := list -}}
{{- range uniq $order -}}
{{- if hasKey $byKey . -}}{{- $merged = append $merged (index $byKey .) -}}{{- end -}}
{{- end -}}
{{- $_ := set . "merged" (ternary $merged .new $keyed) -}}
{{- end -}}
