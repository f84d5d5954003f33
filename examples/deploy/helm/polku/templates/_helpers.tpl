{{- define "polku.name" -}}
{{- if contains "polku" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-polku{{ end }}
{{- end }}

{{- define "polku.selector" -}}
app.kubernetes.io/name: polku
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "polku.labels" -}}
{{ include "polku.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "polku.adminSecret" -}}
{{ .Values.adminSecret | default (printf "%s-admin" (include "polku.name" .)) }}
{{- end }}
