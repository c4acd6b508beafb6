{{- define "astra-farm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "astra-farm.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "astra-farm.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "astra-farm.operator" -}}
{{ include "astra-farm.fullname" . }}-operator
{{- end }}

{{/* What selects the operator's pods: also who may reach its verification pool. */}}
{{- define "astra-farm.operatorLabels" -}}
app.kubernetes.io/name: {{ include "astra-farm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "astra-farm.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "astra-farm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* An image: (dict "root" $ "image" .Values.images.operator) */}}
{{- define "astra-farm.image" -}}
{{- $images := .root.Values.images }}
{{- $repository := ternary .image.repository (printf "%s/%s" (trimSuffix "/" $images.registry) .image.repository) (empty $images.registry) }}
{{- if .image.digest }}
{{- printf "%s@%s" $repository .image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (coalesce .image.tag $images.tag .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* Begins the names of the verification pool, as the operator makes them (operator/astra_operator/manifests/identity.py). */}}
{{- define "astra-farm.verifier" -}}
{{- $plain := printf "verify-%s" (include "astra-farm.operator" .) }}
{{- if le (len $plain) 40 }}
{{- $plain }}
{{- else }}
{{- printf "%s-%s" ($plain | trunc 29 | trimSuffix "-") (sha256sum $plain | trunc 10) }}
{{- end }}
{{- end }}

{{/* The namespaces that it serves, as JSON; none: all. */}}
{{- define "astra-farm.watched" -}}
{{- $own := ternary (list .Release.Namespace) (list) (eq .Values.operator.scope "namespace") }}
{{- ternary .Values.operator.watchNamespaces $own (not (empty .Values.operator.watchNamespaces)) | toJson }}
{{- end }}

{{- define "astra-farm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "astra-farm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "astra-farm.policyVersion" -}}
{{- $served := and (.Capabilities.APIVersions.Has "policy/v1") (semverCompare ">=1.21.0-0" .Capabilities.KubeVersion.Version) }}
{{- ternary "policy/v1" "policy/v1beta1" $served }}
{{- end }}
