{{- define "executors.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: executor
{{- end }}

{{- define "executors.labels" -}}
{{ include "executors.selector" . }}
app.kubernetes.io/part-of: {{ .Values.release }}
app.kubernetes.io/version: {{ .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "executors.name" -}}
{{ printf "%s-executor" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
