{{- define "relay.selector" -}}
app.kubernetes.io/name: relay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "relay.labels" -}}
{{ include "relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- /* relay.pod: what every pod of ours has: a plain user, and nothing to write to. */ -}}
{{- define "relay.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false # else a Service named relay would set RELAY_* variables
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
volumes:
  - name: secret
    secret: {secretName: {{ .secret | quote }}, defaultMode: 0440}
{{- end -}}

{{- define "relay.container" -}}
name: relay
image: {{ printf "%s:%s" .root.Values.image.repository (.root.Values.image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
env:
  {{- range $name, $value := .root.Values.env }}
  - name: {{ $name }}
    {{- if kindIs "map" $value }}
    valueFrom: {{- $value | toYaml | nindent 6 }}
    {{- else }}
    value: {{ $value | quote }}
    {{- end }}
  {{- end }}
  {{- range $name, $key := .files }}
  - {name: {{ $name }}, value: {{ print "/etc/relay/" $key | quote }}}
  {{- end }}
volumeMounts:
  - {name: secret, mountPath: /etc/relay, readOnly: true}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}
